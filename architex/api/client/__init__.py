"""The client-server API.

Spec: https://spec.matrix.org/v1.19/client-server-api/
"""
