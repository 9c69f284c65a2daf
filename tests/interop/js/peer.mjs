// A js-libp2p node that does what it is told: commands are JSON lines on standard input, answers JSON lines on standard
// output. `{"id", "command", ...arguments}` is answered by `{"id", "result"}` or `{"id", "error", "message"}`; the
// first line is `{"ready": {"peer", "addresses"}}`. It ends when its standard input does.
//
// Everything is js-libp2p's own, with its default limits unless an option says otherwise. `../py/peer.py` takes the same
// commands. Options, as one JSON argument: `listen` (multiaddrs), `kad` (protocol id), `inbound_per_second`.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { createInterface } from 'node:readline'
import { quic } from '@chainsafe/libp2p-quic'
import { identify, identifyPush } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { tls } from '@libp2p/tls'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import * as digest from 'multiformats/hashes/digest'

const ECHO = '/quiver/interop/echo/1.0.0'
const COUNT = '/quiver/interop/count/1.0.0'
const RESET = '/quiver/interop/reset/1.0.0'
const ECHO_MS = 200
const ANSWER = '/quiver/interop/answer/1.0.0'
const FRAME_BYTES = 32_000
// A round trip as tests/bench measures it: payload bytes of its two frames, and more streams than it has open at once.
const [QUESTION_BYTES, ANSWER_BYTES, ANSWER_STREAMS_MAX] = [200, 400, 1000]
// The longest of js-libp2p's own deadlines is that of a dial, 10 s.
const COMMAND_MS = 15_000
const SHA2_256 = 0x12

const options = JSON.parse(process.argv[2])

const node = await createLibp2p({
  addresses: { listen: options.listen },
  transports: [quic(), tcp()],
  connectionEncrypters: [tls()],
  streamMuxers: [yamux()],
  connectionManager: {
    ...(options.inbound_per_second && { inboundConnectionThreshold: options.inbound_per_second })
  },
  services: {
    identify: identify(),
    identifyPush: identifyPush(),
    ping: ping(),
    dht: kadDHT({
      protocol: options.kad,
      clientMode: false,
      // The default mapper drops loopback addresses.
      peerInfoMapper: passthroughMapper,
      validators: { interop: async () => {} },
      selectors: { interop: () => 0 }
    })
  }
})

// ---- what we serve

async function send (stream, bytes) {
  if (!stream.send(bytes)) {
    await stream.onDrain({ signal: AbortSignal.timeout(COMMAND_MS) })
  }
}

// js-libp2p's own iterator waits for ever if it starts after the other side's end has come. Bytes that came with the
// protocol's name are put back, and delivered later, even after that end.
async function * chunks (stream) {
  const waiting = []
  let wake = () => {}
  let error = null
  let closed = false
  stream.addEventListener('message', event => { waiting.push(event.data); wake() })
  stream.addEventListener('end', () => wake())
  stream.addEventListener('close', event => { error = event.error ?? null; closed = true; wake() })
  while (true) {
    if (waiting.length > 0) {
      yield waiting.shift().subarray()
    } else if (error !== null) {
      throw error
    } else if (closed || (stream.readableEnded && stream.readBufferLength === 0)) {
      return
    } else {
      await new Promise(resolve => { wake = resolve })
    }
  }
}

function frame (payload) {
  const head = []
  let length = payload.length
  while (length >= 0x80) {
    head.push((length & 0x7f) | 0x80)
    length >>>= 7
  }
  return Buffer.concat([Buffer.from([...head, length]), payload])
}

await node.handle(ECHO, async stream => {
  for await (const chunk of chunks(stream)) {
    await send(stream, chunk)
  }
  await stream.close()
})

await node.handle(COUNT, async stream => {
  let total = 0
  for await (const chunk of chunks(stream)) {
    total += chunk.byteLength
  }
  await send(stream, frame(Buffer.from(String(total))))
  await stream.close()
})

await node.handle(RESET, async stream => {
  for await (const _ of chunks(stream)) {
    // A reset drops what is not sent yet, the protocol's echo too: a moment later it is a reset of an agreed stream.
    await new Promise(resolve => setTimeout(resolve, ECHO_MS))
    stream.abort(new Error('as asked'))
    return
  }
})

const question = frame(Buffer.alloc(QUESTION_BYTES))
const answerFrame = frame(Buffer.alloc(ANSWER_BYTES))

await node.handle(ANSWER, async stream => {
  let left = question.length
  for await (const chunk of chunks(stream)) {
    left -= chunk.byteLength
    if (left <= 0) {
      break
    }
  }
  await send(stream, answerFrame)
  await stream.close()
}, { maxInboundStreams: ANSWER_STREAMS_MAX })

// ---- what we do when told

const signal = () => AbortSignal.timeout(COMMAND_MS)
const open = (peer, protocol) => node.dialProtocol(peerIdFromString(peer), protocol, { signal: signal() })
const cid = hex => CID.createV1(raw.code, digest.create(SHA2_256, Buffer.from(hex, 'hex')))
const describe = info => ({ peer: info.id.toString(), addresses: info.multiaddrs.map(String) })

async function readAll (stream) {
  const all = []
  for await (const chunk of chunks(stream)) {
    all.push(chunk)
  }
  return Buffer.concat(all)
}

async function events (query) {
  const found = []
  for await (const event of query) {
    found.push(event)
  }
  return found
}

const commands = {
  async dial ({ address }) {
    const connection = await node.dial(multiaddr(address), { signal: signal() })
    return { peer: connection.remotePeer.toString(), multiplexer: connection.multiplexer ?? null }
  },

  async hang_up ({ peer }) {
    await node.hangUp(peerIdFromString(peer), { signal: signal() })
    return null
  },

  async connections ({ peer }) {
    return node.getConnections(peerIdFromString(peer)).map(one => String(one.remoteAddr))
  },

  async ping ({ peer }) {
    return node.services.ping.ping(peerIdFromString(peer), { signal: signal() })
  },

  async identify ({ peer }) {
    const [connection] = node.getConnections(peerIdFromString(peer))
    const told = await node.services.identify.identify(connection, { signal: signal() })
    return {
      peer: told.peerId.toString(),
      protocol_version: told.protocolVersion ?? null,
      agent_version: told.agentVersion ?? null,
      addresses: told.listenAddrs.map(String),
      observed: told.observedAddr ? String(told.observedAddr) : null,
      protocols: told.protocols,
      signed: told.signedPeerRecord ? { seq: String(told.signedPeerRecord.seq), addresses: told.signedPeerRecord.addresses.map(String) } : null
    }
  },

  async protocols ({ peer }) {
    return (await node.peerStore.get(peerIdFromString(peer))).protocols
  },

  // `size` random bytes in frames, read back while they are written.
  async echo ({ peer, size }) {
    const stream = await open(peer, ECHO)
    const reading = readAll(stream)
    const written = []
    let out = 0
    for (let left = size; left > 0; left -= FRAME_BYTES) {
      const bytes = frame(randomBytes(Math.min(left, FRAME_BYTES)))
      written.push(bytes)
      out += bytes.length
      await send(stream, bytes)
    }
    await stream.close({ signal: signal() })
    const back = await reading
    return { sent: out, received: back.length, same: back.equals(Buffer.concat(written)) }
  },

  // Writes frames and ends its side; the answer comes after that.
  async half_close ({ peer, size }) {
    const stream = await open(peer, COUNT)
    const reading = readAll(stream)
    let sent = 0
    for (let left = size; left > 0; left -= FRAME_BYTES) {
      const bytes = frame(randomBytes(Math.min(left, FRAME_BYTES)))
      sent += bytes.length
      await send(stream, bytes)
    }
    await stream.close({ signal: signal() })
    return { sent, counted: Number((await reading).subarray(1).toString()) }
  },

  // Asks for a stream that the other side resets. `error` is what the reader sees: null where it looks like an end;
  // js-libp2p shows no code.
  async be_reset ({ peer }) {
    const stream = await open(peer, RESET)
    const reading = readAll(stream).then(data => ({ received: data.length, error: null, code: null }),
      error => ({ received: 0, error: error.name, code: null }))
    await send(stream, frame(Buffer.from('reset me')))
    return reading
  },

  // Starts an echo and gives it up.
  async reset ({ peer }) {
    const stream = await open(peer, ECHO)
    await send(stream, frame(Buffer.from('never mind')))
    await chunks(stream).next()
    stream.abort(new Error('as told'))
    return null
  },

  // Round trips, each on a stream of its own, `at_once` under way at a time; how long they took all together.
  async ask ({ peer, requests, at_once: atOnce }) {
    const [connection] = node.getConnections(peerIdFromString(peer))
    const began = performance.now()
    let left = requests
    const work = async () => {
      while (left-- > 0) {
        const stream = await connection.newStream(ANSWER, { maxOutboundStreams: ANSWER_STREAMS_MAX })
        await send(stream, question)
        assert.equal((await readAll(stream)).length, answerFrame.length)
        await stream.close()
      }
    }
    await Promise.all(Array.from({ length: atOnce }, work))
    return { seconds: (performance.now() - began) / 1000 }
  },

  // CPU time of this process and all its threads so far, in seconds.
  async cpu () {
    const { user, system } = process.cpuUsage()
    return (user + system) / 1e6
  },

  // Serves one more protocol: peers that are connected are told so by identify's push.
  async serve ({ protocol }) {
    await node.handle(protocol, stream => stream.close())
    return null
  },

  async open ({ peer, protocol }) {
    const stream = await open(peer, protocol)
    const agreed = stream.protocol
    await stream.close({ signal: signal() })
    return agreed
  },

  // A connected peer of the same DHT gets into the routing table: js-libp2p sees to it by itself.
  async join () {
    return true
  },

  async find_peer ({ peer }) {
    for await (const event of node.services.dht.findPeer(peerIdFromString(peer), { signal: signal() })) {
      if (event.name === 'FINAL_PEER') {
        return describe(event.peer)
      }
    }
    return null
  },

  // `key` is the SHA-256 digest, in hex.
  async provide ({ key }) {
    const found = await events(node.services.dht.provide(cid(key), { signal: signal() }))
    return found.filter(one => one.name === 'QUERY_ERROR').map(one => String(one.error))
  },

  async find_providers ({ key }) {
    const found = new Map()
    for (const event of await events(node.services.dht.findProviders(cid(key), { signal: signal() }))) {
      for (const provider of event.name === 'PROVIDER' ? event.providers : []) {
        found.set(provider.id.toString(), describe(provider))
      }
    }
    return [...found.values()]
  },

  // `key` is text like /interop/name, or hex if `encoding` says so; `value` is hex.
  async put ({ key, value, encoding }) {
    const found = await events(node.services.dht.put(Buffer.from(key, encoding), Buffer.from(value, 'hex'), { signal: signal() }))
    return found.filter(one => one.name === 'QUERY_ERROR').map(one => String(one.error))
  },

  async get ({ key, encoding }) {
    const found = await events(node.services.dht.get(Buffer.from(key, encoding), { signal: signal() }))
    const values = found.filter(one => one.name === 'VALUE')
    return values.length > 0 ? Buffer.from(values.at(-1).value).toString('hex') : null
  },

  async routing_table () {
    return [...node.services.dht.routingTable.kb.toIterable()].map(one => one.peerId.toString())
  }
}

// ---- the dialogue

const write = line => process.stdout.write(JSON.stringify(line) + '\n')

async function answer ({ id, command, ...rest }) {
  try {
    write({ id, result: await commands[command](rest) })
  } catch (error) {
    write({ id, error: error.name, message: String(error.message) })
  }
}

write({ ready: { peer: node.peerId.toString(), addresses: node.getMultiaddrs().map(String) } })
for await (const line of createInterface({ input: process.stdin })) {
  answer(JSON.parse(line))
}
await node.stop()
process.exit(0)
