'use strict';
const cluster = require('cluster');
if (cluster.isPrimary) {
  cluster.setupPrimary({ args: process.argv.slice(2) });
  for (let n = 0; n < 3; n++) cluster.fork();
  cluster.on('exit', (worker, code) => { console.log('a worker ended', code); process.exit(1); });
} else {
  require('./http_server.js');
}
