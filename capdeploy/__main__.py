"""``python -m capdeploy``."""

from capdeploy.cli import main

if __name__ == "__main__":
    main()
