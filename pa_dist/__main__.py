"""`python -m pa_dist` is `pa-dist`."""

from pa_dist.cli import main

if __name__ == "__main__":
    main()
