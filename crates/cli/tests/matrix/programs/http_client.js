'use strict';
// Fetches /big with keep-alive and without, several at a time.
const http = require('http'), crypto = require('crypto');
const [host, port] = process.argv.slice(2);
const agents = [new http.Agent({ keepAlive: true, maxSockets: 4 }), new http.Agent({ keepAlive: false })];
function get(n) {
  return new Promise((resolve, reject) => {
    http.get({ host, port, path: '/big', agent: agents[n % 2] }, (response) => {
      const hash = crypto.createHash('sha256');
      response.on('data', (d) => hash.update(d));
      response.on('end', () => resolve(hash.digest('hex')));
    }).on('error', reject);
  });
}
(async () => {
  const all = new Set();
  let count = 0;
  for (let round = 0; round < 6; round++) {
    for (const h of await Promise.all([...Array(10).keys()].map(get))) { all.add(h); count++; }
  }
  console.log(count, [...all].join(' '));
  agents.forEach((a) => a.destroy());
})();
