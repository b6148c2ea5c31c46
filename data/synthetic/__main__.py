"""`python -m data.synthetic`: draw the demonstration's micrographs."""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m data.synthetic")

from data.synthetic.micrographs import main

if __name__ == "__main__":
    main()
