// Drives a worker with leviathan's own class, as leviathan's core does: node leviathan.js CHECKOUT PORT IMAGE [NAME].
// With the name by which a system is known in its network, commands go to it over SSH, too.
// Prints a line of JSON for each call: its name, how long it took and what came of it.
'use strict';

const [checkout, port, image, name] = process.argv.slice(2);
const dns = require('dns');
const fs = require('fs');
const Module = require('module');
const path = require('path');

// The class tells a worker beside it by the word in its URL. In leviathan's network it is a host of that name.
const lookup = dns.lookup;
dns.lookup = (host, options, done) => lookup(host === 'worker' ? '127.0.0.1' : host, options, done);

// The class unpacks captures into /tmp/capture. Here they go into the folder that we work in.
const here = (wanted, loaded) =>
	wanted === 'tar-fs' ? { ...loaded, extract: (_, ...rest) => loaded.extract('capture', ...rest) } : loaded;

// The class loads balena's SDK for workers behind balena's cloud. This one is not, so it may be missing.
const load = Module._load;
Module._load = function (wanted, ...rest) {
	try {
		return here(wanted, load.call(this, wanted, ...rest));
	} catch (error) {
		if (wanted === 'balena-sdk' && error.code === 'MODULE_NOT_FOUND') {
			return { getSdk: () => { throw new Error('balena-sdk is not installed'); } };
		}
		throw error;
	}
};

const Worker = require(path.join(checkout, 'core/lib/common/worker'));
const url = `http://worker:${port}`;
const quiet = { log: () => {}, status: () => {}, info: () => {} };
// The class says each request on stdout, where only our lines go.
const say = console.log.bind(console);
console.log = () => {};
const worker = new Worker('generic-amd64', quiet, url, 'root', '/tmp/id');

async function step(title, work) {
	const begun = Date.now();
	let outcome;
	try {
		outcome = { value: await work() };
	} catch (error) {
		outcome = { error: String(error.message) };
	}
	say(JSON.stringify({ step: title, ms: Date.now() - begun, ...outcome }));
}

const get = async path => (await fetch(`${url}${path}`)).text();

(async () => {
	await step('reserve', () => get('/start'));
	const heart = setInterval(() => get('/heartbeat').catch(() => {}), 20 * 1000);
	await step('contract', () => worker.getContract());
	await step('network', () => worker.network({ wired: { nat: true } }));
	await step('off before', () => worker.off());
	await step('flash', () => worker.flash(image));
	await step('flash again', () => worker.flash(image));
	await step('capture', () => worker.capture('start'));
	await step('on', () => worker.on());
	if (name) {
		const patience = { max_tries: 300, interval: 1000 };
		await step('ssh', () => worker.executeCommandInHostOS('hostname', name, patience));
	}
	await step('serial exec', () => worker.executeCommandInHostOS('uname -m', 'serial'));
	await step('serial number', () => worker.executeCommandInHostOS('echo 0', 'serial'));
	await step('ip', () => worker.ip('abc1234.local'));
	await step('diagnostics', () => worker.diagnostics());
	await step('captured', async () => {
		await worker.capture('stop');
		return fs.readdirSync('capture').sort();
	});
	await step('serial', () => worker.fetchSerial());
	await step('off', () => worker.off());
	await step('off again', () => worker.off());
	await step('teardown', () => worker.teardown());
	await step('serial after', () => get('/dut/serial'));
	await step('state', () => get('/state'));
	clearInterval(heart);
	process.exit(0);
})();
