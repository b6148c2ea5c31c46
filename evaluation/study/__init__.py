"""The study: its published figures, the tables and trends that our runs give beside them."""
