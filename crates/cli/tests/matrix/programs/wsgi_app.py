import os

def app(environ, start_response):
    name = environ['PATH_INFO'].strip('/') or 'index.html'
    with open(os.path.join(os.environ['WWW'], name), 'rb') as f:
        data = f.read()
    start_response('200 OK', [('Content-Length', str(len(data)))])
    return [data]

application = app
