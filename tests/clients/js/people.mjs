// People with matrix-js-sdk, unmodified, and what the scripts beside this one do with them.

import * as sdk from "matrix-js-sdk";
import { CryptoEvent, VerificationPhase, VerifierEvent } from "matrix-js-sdk/lib/crypto-api/index.js";

const PASSWORD = "correct horse battery staple";
const PATIENCE_MS = 30_000;

export const say = (...words) => process.stdout.write(words.join(" ") + "\n");
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export async function until(what, look) {
    const end = Date.now() + PATIENCE_MS;
    while (Date.now() < end) {
        const found = await look();
        if (found) return found;
        await sleep(100);
    }
    throw new Error(`it does not come: ${what}`);
}

async function call(url, method, path, body) {
    const answer = await fetch(`${url}/_matrix/client/v3${path}`, {
        method,
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
    });
    const told = await answer.json();
    if (!answer.ok) throw new Error(`${path} ${answer.status} ${JSON.stringify(told)}`);
    return told;
}

const passwordOf = (user) => ({
    type: "m.login.password",
    identifier: { type: "m.id.user", user },
    password: PASSWORD,
});

export const withPassword = (user) => ({
    authUploadDeviceSigningKeys: (makeRequest) => makeRequest(passwordOf(user)),
});

export async function register(url, user) {
    const auth = { type: "m.login.dummy" };
    await call(url, "POST", "/register", { username: user, password: PASSWORD, auth, inhibit_login: true });
}

// A new device, which is told the key of the secret storage if there is one.
export async function logIn(url, user, secret) {
    const told = await call(url, "POST", "/login", passwordOf(user));
    const client = sdk.createClient({
        baseUrl: url,
        userId: told.user_id,
        deviceId: told.device_id,
        accessToken: told.access_token,
        cryptoCallbacks: {
            getSecretStorageKey: async ({ keys }) => [Object.keys(keys)[0], secret],
            cacheSecretStorageKey: (id, info, key) => {
                secret = key;
            },
        },
    });
    client.secret = () => secret;
    client.asked = [];
    client.on(CryptoEvent.VerificationRequestReceived, (request) => client.asked.push(request));
    await client.initRustCrypto({ useIndexedDB: false });
    await client.startClient({ initialSyncLimit: 100 });
    await until("the first sync", () => client.isInitialSyncComplete());
    return client;
}

// Cross-signing keys, a secret storage with them in it, and a key backup.
export async function setUp(client, user) {
    const crypto = client.getCrypto();
    await crypto.bootstrapCrossSigning(withPassword(user));
    await crypto.bootstrapSecretStorage({
        createSecretStorageKey: () => crypto.createRecoveryKeyFromPassphrase("open sesame"),
        setupNewSecretStorage: true,
        setupNewKeyBackup: true,
    });
    if (!(await crypto.isCrossSigningReady())) throw new Error("cross-signing is not ready");
}

export async function createEncryptedRoom(client, invite) {
    const algorithm = { algorithm: "m.megolm.v1.aes-sha2" };
    const { room_id: roomId } = await client.createRoom({
        invite,
        initial_state: [{ type: "m.room.encryption", state_key: "", content: algorithm }],
    });
    return roomId;
}

export async function join(client, roomId) {
    await until("the invite", () => client.getRoom(roomId));
    await client.joinRoom(roomId);
}

// Until each of the clients knows all devices of the others as they are.
export async function untilKnown(clients, roomId) {
    const users = new Map();
    for (const client of clients) {
        const devices = users.get(client.getUserId()) ?? new Set();
        users.set(client.getUserId(), devices.add(client.getDeviceId()));
    }
    for (const client of clients) {
        const name = `${client.getDeviceId()} of ${client.getUserId()}`;
        await until(`all members for ${name}`, () =>
            client.getRoom(roomId)?.getJoinedMemberCount() === users.size);
        for (const [userId, devices] of users) {
            await until(`the devices of ${userId} for ${name}`, async () => {
                const known = (await client.getCrypto().getUserDeviceInfo([userId], true)).get(userId);
                return known && [...known.keys()].sort().join() === [...devices].sort().join();
            });
        }
    }
}

// What a client could read, in alphabetical order.
async function heard(client, roomId) {
    const bodies = [];
    for (const event of client.getRoom(roomId)?.getLiveTimeline().getEvents() ?? []) {
        if (!event.isEncrypted()) continue;
        if (event.isDecryptionFailure()) await event.attemptDecryption(client.getCrypto(), { isRetry: true });
        const { msgtype, body } = event.getContent();
        if (event.isDecryptionFailure()) bodies.push("unreadable");
        else if (event.getType() === "m.room.message" && msgtype === "m.text") bodies.push(body);
    }
    return bodies.sort();
}

// Until each of the clients has read just that, and there is nothing that it cannot read; or else
// what there was before it came may be unreadable.
export async function untilHeard(clients, roomId, bodies, { mayMiss = false } = {}) {
    const wanted = [...bodies].sort().join();
    for (const client of clients) {
        const name = `${client.getDeviceId()} of ${client.getUserId()}`;
        let last = "";
        await until(`all messages for ${name}`, async () => {
            const all = await heard(client, roomId);
            last = all.filter((body) => !mayMiss || body !== "unreadable").join();
            return last === wanted;
        }).catch((error) => {
            throw new Error(`${error.message}\n  wanted ${wanted}\n  heard  ${last}`);
        });
    }
}

// The people compare emoji, and find them equal. `request` is of one device, `other` the device that is asked.
export async function compareEmoji(request, other) {
    const asked = await until("the request", () =>
        other.asked.find((one) => one.transactionId === request.transactionId));
    await asked.accept();
    await until("both are ready", () => request.phase === VerificationPhase.Ready);
    const verifier = await request.startVerification("m.sas.v1");
    const theirs = await until("the start", () => asked.verifier);
    const seen = [];
    const confirm = async (sas) => {
        seen.push(JSON.stringify(sas.sas.emoji));
        await until("both see emoji", () => seen.length === 2);
        if (seen[0] !== seen[1]) throw new Error("they see different emoji");
        await sas.confirm();
    };
    verifier.on(VerifierEvent.ShowSas, confirm);
    theirs.on(VerifierEvent.ShowSas, confirm);
    await Promise.all([verifier.verify(), theirs.verify()]);
}

export function run(main) {
    for (const level of ["log", "info", "debug", "trace", "warn"]) console[level] = () => {};
    main().then(
        () => process.exit(0),
        (error) => {
            say("FAILED", error.stack ?? error);
            process.exit(1);
        },
    );
}
