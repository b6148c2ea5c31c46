"""`python -m data.synthetic_nanosem`: draw pictures of the pre-training's classes."""

from data.synthetic.nanosem import main

if __name__ == "__main__":
    main()
