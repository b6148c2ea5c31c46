"""`python -m data.nanosem`: clean the pictures of the pre-training."""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m data.nanosem")

from data.nanosem.cleaning import main

if __name__ == "__main__":
    main()
