"""Files of texts in, files of answers out. Nothing here knows who answers."""
