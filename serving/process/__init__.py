"""The service as a process: started, waited for, stopped, and never left behind.

What it answers is in ``serving/endpoint``. Read first: ``process.start_service``.
"""
