// msgpack-rpc-node as a client: SOCKET and the calls in JSON; prints the answers in JSON.
const { Client, UnixClient } = require('msgpack-rpc-node');

const binary = v => (v && v.$bin !== undefined ? Buffer.from(v.$bin, 'hex') : v);
const plain = v => (v instanceof Uint8Array ? { $bin: Buffer.from(v).toString('hex') } : v);

(async () => {
  const client = new Client(UnixClient, process.argv[2]);
  await client.connect();
  const answers = [];
  for (const [method, ...params] of JSON.parse(process.argv[3])) {
    try {
      answers.push(plain(await client.call(method, ...params.map(binary))));
    } catch (error) {
      answers.push({ error: String(error) });
    }
  }
  console.log(JSON.stringify(answers));
  client.close();
})();
