"""What an engine says of itself, in one line."""


class EngineError(Exception):
    """A checkpoint or device that an engine cannot work with."""


class EngineGone(RuntimeError):
    """The engine serves this process no more."""


def first_line(error: BaseException) -> str:
    """What an error of another library says, as one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
