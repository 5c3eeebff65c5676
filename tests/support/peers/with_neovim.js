// The transport of npm's neovim as a client: SOCKET and the calls in JSON; prints the answers.
const net = require('node:net');
const { Transport } = require('neovim/lib/utils/transport');

const binary = v => (v && v.$bin !== undefined ? Buffer.from(v.$bin, 'hex') : v);
const plain = v => (v instanceof Uint8Array ? { $bin: Buffer.from(v).toString('hex') } : v);

const socket = net.connect(process.argv[2], async () => {
  const transport = new Transport();
  transport.attach(socket, socket, null);
  const call = (method, params) =>
    new Promise(resolve => {
      transport.request(method, params, (error, result) =>
        resolve(error === null ? plain(result) : { error }));
    });
  const answers = [];
  for (const [method, ...params] of JSON.parse(process.argv[3])) {
    answers.push(await call(method, params.map(binary)));
  }
  console.log(JSON.stringify(answers));
  socket.end();
});
