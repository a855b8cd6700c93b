"""What gunicorn loads: `gunicorn -c gunicorn.conf.py architex.wsgi`."""

from architex.bootstrap.garbage import spare_the_program
from architex.bootstrap.web import build_wsgi_app
from architex.settings import load_settings

application = build_wsgi_app(load_settings())
spare_the_program()
