"""`python -m data.synthetic`: draw the demonstration's micrographs."""

from data.synthetic.micrographs import main

if __name__ == "__main__":
    main()
