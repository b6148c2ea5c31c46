"""`python -m data.nanosem`: clean the pictures of the pre-training."""

from data.nanosem.cleaning import main

if __name__ == "__main__":
    main()
