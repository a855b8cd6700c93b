"""`python -m architex` is the `architex` command."""

from architex.cli.main import main

if __name__ == "__main__":
    main()
