"""One module per paper: its tables as specs, its figures as blocks, its departures in words."""
