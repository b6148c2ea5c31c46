"""`python -m data.synthetic_nanosem`: draw pictures of the pre-training's classes."""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m data.synthetic_nanosem")

from data.synthetic.nanosem import main

if __name__ == "__main__":
    main()
