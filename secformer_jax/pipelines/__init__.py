"""Private answers in the shape of Hugging Face's pipelines."""
