"""Where a computing server answers what, over HTTPS."""

PUBLISH_PATH, ACTIVATE_PATH, INFER_PATH, STATUS_PATH = "/v1/publish", "/v1/activate", "/v1/infer", "/v1/status"
HEALTH_PATH = "/health"
PEER_PATH, STATEMENT_PATH, CLOSE_PATH = "/v1/peer", "/v1/statement", "/v1/close"
END = "end"
"""The kind of the last message of a stream."""
