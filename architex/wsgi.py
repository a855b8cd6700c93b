"""What gunicorn loads: `gunicorn -c gunicorn.conf.py architex.wsgi`."""

import gc

from architex.bootstrap.web import build_wsgi_app
from architex.settings import load_settings

application = build_wsgi_app(load_settings())

# What the server is made of stays to its end. Looking through it for garbage took 70 ms each time,
# and nobody was served meanwhile.
gc.collect()
gc.freeze()
