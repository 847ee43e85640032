"""`python -m holdfast` is the command line."""

from holdfast.frontend.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
