"""The web service of a run: an HTTP API, a page, a database of jobs and a worker on the device.

Knows the model by `src.service.model.ServiceModel` alone: neither configs nor commands.
"""
