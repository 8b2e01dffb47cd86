"use strict";
// The Node clients. What a driver is told and answers: `matrix.py`.

const readline = require("node:readline");

const TIMEOUT_SECONDS = 30;

const promised = (call) =>
  new Promise((resolve, reject) => call((error, found) => (error ? reject(error) : resolve(found))));

// npm's memcached: text.
function memcached(host, port) {
  const Memcached = require("memcached");
  const library = new Memcached(`${host}:${port}`, {
    timeout: TIMEOUT_SECONDS * 1000,
    idle: 600_000,
    poolSize: 1,
    retries: 0,
    failures: 1_000_000,
  });
  const uniques = new Map();
  const ask = (op, ...rest) => promised((done) => library[op](...rest, done));
  const bytes = (value) => (value === undefined || value === false ? null : Buffer.from(value));
  return {
    set: ([key, value, seconds]) => ask("set", key, value, seconds),
    add: ([key, value, seconds]) => ask("add", key, value, seconds),
    replace: ([key, value, seconds]) => ask("replace", key, value, seconds),
    append: ([key, value]) => ask("append", key, value),
    prepend: ([key, value]) => ask("prepend", key, value),
    get: async ([key]) => bytes(await ask("get", key)),
    gets: async ([key]) => {
      const found = await ask("gets", key);
      uniques.set(key, found.cas);
      return bytes(found[key]);
    },
    cas: ([key, value, seconds]) => ask("cas", key, value, uniques.get(key), seconds),
    incr: ([key, number]) => ask("incr", key, number),
    decr: ([key, number]) => ask("decr", key, number),
    touch: ([key, seconds]) => ask("touch", key, seconds),
    delete: ([key]) => ask("del", key),
    multiget: async (keys) => new Map(Object.entries(await ask("getMulti", keys))),
    stats: async () => new Map(Object.entries((await ask("stats"))[0])),
    version: async () => Buffer.from((await ask("version"))[0].version),
    flush: async () => (await ask("flush"))[0],
  };
}

// memjs: binary.
function memjs(host, port) {
  const quiet = { log() {} };
  const library = require("memjs").Client.create(`${host}:${port}`, {
    timeout: TIMEOUT_SECONDS,
    conntimeout: TIMEOUT_SECONDS,
    retries: 3,
    failover: false,
    logger: quiet,
  });
  return {
    set: ([key, value, expires]) => library.set(key, value, { expires }),
    add: ([key, value, expires]) => library.add(key, value, { expires }),
    replace: ([key, value, expires]) => library.replace(key, value, { expires }),
    append: ([key, value]) => library.append(key, value),
    prepend: ([key, value]) => library.prepend(key, value),
    get: async ([key]) => (await library.get(key)).value,
    incr: async ([key, number]) => (await library.increment(key, number, {})).value,
    decr: async ([key, number]) => (await library.decrement(key, number, {})).value,
    touch: ([key, seconds]) => library.touch(key, seconds),
    delete: ([key]) => library.delete(key),
    // It has no call for many keys; this many wait at once.
    multiget: async (keys) => {
      const found = await Promise.all(keys.map((key) => library.get(key)));
      return new Map(keys.map((key, index) => [key, found[index].value]).filter(([, value]) => value !== null));
    },
    multiset: async (parts) => {
      const values = parts.slice(1).filter((_, index) => index % 2 === 0);
      const stored = await Promise.all(values.map((value, index) => library.set(parts[2 * index], value, { expires: 1000 })));
      return stored.every((yes) => yes === true);
    },
    stats: () => promised((done) => library.stats((error, _, stats) => done(error, new Map(Object.entries(stats ?? {}))))),
    flush: () => promised((done) => library.flush((error, results) => done(error, Object.values(results)[0]))),
  };
}

const CLIENTS = { "npm memcached": memcached, memjs };

const decode = (field) => Buffer.from(field, "base64");

// Keys are text, values bytes, the rest numbers.
function parse(op, fields) {
  if (["get", "gets", "delete", "multiget", "quiet_delete"].includes(op)) {
    return fields.map((field) => decode(field).toString());
  }
  if (op === "multiset") {
    return fields.map((field, index) => (index % 2 ? decode(field) : decode(field).toString()));
  }
  const numbersFrom = ["incr", "decr", "touch", "gat"].includes(op) ? 1 : 2;
  return fields.map((field, index) =>
    index === 0 ? decode(field).toString() : index < numbersFrom ? decode(field) : Number(field),
  );
}

function answer(found) {
  const text = (value) => Buffer.from(Buffer.isBuffer(value) ? value : String(value)).toString("base64");
  if (typeof found === "boolean") return String(found);
  if (found === null || found === undefined) return "none";
  if (typeof found === "number") return `number\t${found}`;
  if (found instanceof Map) return ["pairs", ...[...found].flat().map(text)].join("\t");
  return `value\t${text(found)}`;
}

async function main() {
  const [name, host, port] = process.argv.slice(2);
  const client = CLIENTS[name](host, Number(port));
  for await (const line of readline.createInterface({ input: process.stdin, crlfDelay: Infinity })) {
    const [op, ...fields] = line.split("\t");
    let said;
    try {
      said = op in client ? answer(await client[op](parse(op, fields))) : "unsupported";
    } catch (error) {
      said = `error\t${error}`.replaceAll("\n", " ");
      console.error(said);
    }
    process.stdout.write(`${said}\n`);
  }
  process.exit(0);
}

main();
