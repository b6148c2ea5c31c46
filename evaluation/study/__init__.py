"""The study: its published values, and the tables, figures and trends of our runs beside them."""
