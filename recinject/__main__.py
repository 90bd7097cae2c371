"""``python -m recinject`` and ``accelerate launch -m recinject``."""

from recinject.cli import main

if __name__ == "__main__":
    main()
