"""A checkpoint as a service: OpenAI's HTTP API, live microphones, and a page."""
