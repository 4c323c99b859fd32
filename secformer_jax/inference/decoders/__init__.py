"""Private generation: a decoder's weights under masks, and its passes over a request's tokens."""
