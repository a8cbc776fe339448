"""A file for each part of the API: what is asked, what is answered; the work is done elsewhere."""
