"""`python -m pa_dist` is `pa-dist`."""

from pa_dist.interrupts import told


def main() -> None:
    """Entry point of `pa-dist`; what it imports takes a second, in which Ctrl-C is one line too."""
    with told():
        from pa_dist import cli

        cli.main()


if __name__ == "__main__":
    main()
