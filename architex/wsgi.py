"""What gunicorn loads: `gunicorn -c gunicorn.conf.py architex.wsgi`."""

from architex.bootstrap import build_wsgi_app
from architex.settings import load_settings

application = build_wsgi_app(load_settings())
