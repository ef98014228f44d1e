"""``python -m anytask.cli``."""

from anytask.cli import main

if __name__ == "__main__":
    main()
