'use strict';
const http = require('http'), fs = require('fs'), path = require('path');
const [host, port, folder] = process.argv.slice(2);
http.createServer((request, response) => {
  const name = request.url === '/' ? 'index.html' : request.url.slice(1);
  const file = path.join(folder, name);
  response.setHeader('Content-Length', fs.statSync(file).size);
  fs.createReadStream(file).pipe(response);
}).listen(Number(port), host);
