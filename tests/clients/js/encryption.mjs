// Alice and Bob with matrix-js-sdk, unmodified: an encrypted conversation, cross-signing, secret
// storage, a key backup, and a new device of Alice's that reads what was said before it came.
//
//     node encryption.mjs URL_OF_ALICE URL_OF_BOB
//
// Prints one line per thing that worked, "ALL OK" at the end; exit status 1 otherwise.

import * as sdk from "matrix-js-sdk";

const [aliceUrl, bobUrl] = process.argv.slice(2);
const PASSWORD = "correct horse battery staple";
const PATIENCE_MS = 30_000;

const say = (...words) => process.stdout.write(words.join(" ") + "\n");
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(what, look) {
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

async function register(url, user) {
    const auth = { type: "m.login.dummy" };
    await call(url, "POST", "/register", { username: user, password: PASSWORD, auth, inhibit_login: true });
}

async function logIn(url, user, secret) {
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
    await client.initRustCrypto({ useIndexedDB: false });
    await client.startClient({ initialSyncLimit: 100 });
    await until("the first sync", () => client.isInitialSyncComplete());
    return client;
}

const withPassword = (user) => ({
    authUploadDeviceSigningKeys: (makeRequest) => makeRequest(passwordOf(user)),
});

async function heard(client, roomId) {
    const bodies = [];
    for (const event of client.getRoom(roomId)?.getLiveTimeline().getEvents() ?? []) {
        if (!event.isEncrypted()) continue;
        if (event.isDecryptionFailure()) await event.attemptDecryption(client.getCrypto(), { isRetry: true });
        bodies.push(event.isDecryptionFailure() ? "unreadable" : event.getContent().body);
    }
    return bodies.sort().join();
}

async function main() {
    await register(aliceUrl, "alice");
    await register(bobUrl, "bob");
    const alice = await logIn(aliceUrl, "alice");
    const bob = await logIn(bobUrl, "bob");
    const crypto = alice.getCrypto();
    await crypto.bootstrapCrossSigning(withPassword("alice"));
    await crypto.bootstrapSecretStorage({
        createSecretStorageKey: () => crypto.createRecoveryKeyFromPassphrase("open sesame"),
        setupNewSecretStorage: true,
        setupNewKeyBackup: true,
    });
    await bob.getCrypto().bootstrapCrossSigning(withPassword("bob"));
    if (!(await crypto.isCrossSigningReady())) throw new Error("cross-signing is not ready");
    say("cross-signing and secret storage are there");

    const algorithm = { algorithm: "m.megolm.v1.aes-sha2" };
    const { room_id: roomId } = await alice.createRoom({
        invite: [bob.getUserId()],
        initial_state: [{ type: "m.room.encryption", state_key: "", content: algorithm }],
    });
    await until("the invite", () => bob.getRoom(roomId));
    await bob.joinRoom(roomId);
    await until("the join", () => alice.getRoom(roomId)?.getJoinedMemberCount() === 2);
    await until("Bob's device", async () =>
        (await crypto.getUserDeviceInfo([bob.getUserId()], true)).get(bob.getUserId())?.has(bob.getDeviceId()));
    for (const number of [0, 1, 2]) {
        await alice.sendTextMessage(roomId, `a${number}`);
        await bob.sendTextMessage(roomId, `b${number}`);
    }
    for (const client of [alice, bob]) {
        await until(`all messages for ${client.getUserId()}`, async () =>
            (await heard(client, roomId)) === "a0,a1,a2,b0,b1,b2");
    }
    say("both read everything");

    const version = () => alice.http.authedRequest("GET", "/room_keys/version");
    await until("the backup of both sessions", async () => (await version()).count >= 2);
    const device = await logIn(aliceUrl, "alice", alice.secret());
    await until("own keys", () => device.getCrypto().userHasCrossSigningKeys(alice.getUserId(), true));
    await device.getCrypto().bootstrapCrossSigning(withPassword("alice"));
    await device.getCrypto().loadSessionBackupPrivateKeyFromSecretStorage();
    const { imported, total } = await device.getCrypto().restoreKeyBackup();
    if (imported !== total || total < 2) throw new Error(`restored ${imported} of ${total} keys`);
    await until("what was said before", async () => (await heard(device, roomId)) === "a0,a1,a2,b0,b1,b2");
    say("a new device reads the past from the backup");

    await until("trust in the new device", async () => {
        const status = await crypto.getDeviceVerificationStatus(alice.getUserId(), device.getDeviceId());
        return status?.crossSigningVerified;
    });
    await until("that Bob knows the new device", async () =>
        (await bob.getCrypto().getUserDeviceInfo([alice.getUserId()]))
            .get(alice.getUserId())
            ?.has(device.getDeviceId()));
    await bob.sendTextMessage(roomId, "c");
    await until("a message for it", async () => (await heard(device, roomId)) === "a0,a1,a2,b0,b1,b2,c");
    say("it is verified by cross-signing, and hears what comes");
    say("ALL OK");
    for (const client of [alice, bob, device]) client.stopClient();
}

for (const level of ["log", "info", "debug", "trace", "warn"]) console[level] = () => {};
main().then(
    () => process.exit(0),
    (error) => {
        say("FAILED", error.stack ?? error);
        process.exit(1);
    },
);
