"""The parts of a training: its optimizer, precision and devices, what it keeps, how it goes on."""
