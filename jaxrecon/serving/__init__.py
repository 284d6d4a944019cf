"""A server of reconstructions: photos or a video in, results to look at and to download out.

The server takes uploads, keeps the queue and gives out results; a process of its own has the model
and the device (`worker.py`), one job at a time. So a job that is cancelled, or that takes its
process down, frees the device, and the server goes on. Starlette and uvicorn do HTTP, and
python-multipart the forms; `app.py` says what can be asked for.
"""
