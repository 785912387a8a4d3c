// The relay that noVNC deployments on Node use: ws in front, a TCP socket behind.
// node node_relay.js LISTEN_PORT DESKTOP_PORT
'use strict';
const net = require('node:net');
const { WebSocketServer } = require('ws');

const [port, desktopPort] = process.argv.slice(2).map(Number);
const host = '127.0.0.1';
const HIGH_BYTES = 1 << 20;

new WebSocketServer({ host, port, perMessageDeflate: false }).on('connection', (viewer) => {
  const desktop = net.connect({ host, port: desktopPort, noDelay: true });
  const sent = () => {
    if (desktop.isPaused() && viewer.bufferedAmount < HIGH_BYTES) desktop.resume();
  };
  desktop.on('data', (data) => {
    viewer.send(data, sent);
    if (viewer.bufferedAmount > HIGH_BYTES) desktop.pause();
  });
  desktop.on('end', () => viewer.close());
  desktop.on('error', () => viewer.terminate());
  viewer.on('message', (data) => desktop.write(data));
  viewer.on('close', () => desktop.end());
  viewer.on('error', () => desktop.destroy());
});
