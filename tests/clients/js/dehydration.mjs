// Alice leaves a dehydrated device behind and logs out; Bob goes on speaking; the device with which
// she logs in next reads what he said meanwhile.
//
//     node dehydration.mjs URL_OF_ALICE URL_OF_BOB
//
// Prints one line per thing that worked, "ALL OK" at the end; exit status 1 otherwise.

import {
    createEncryptedRoom,
    join,
    logIn,
    register,
    run,
    say,
    setUp,
    until,
    untilHeard,
    untilKnown,
    withPassword,
} from "./people.mjs";

const [aliceUrl, bobUrl] = process.argv.slice(2);

async function main() {
    await register(aliceUrl, "alice");
    await register(bobUrl, "bob");
    const alice = await logIn(aliceUrl, "alice");
    const bob = await logIn(bobUrl, "bob");
    await setUp(alice, "alice");
    const roomId = await createEncryptedRoom(alice, [bob.getUserId()]);
    await join(bob, roomId);
    await untilKnown([alice, bob], roomId);
    if (!(await alice.getCrypto().isDehydrationSupported())) throw new Error("there is no dehydration");
    await alice.getCrypto().startDehydration();
    say("Alice left a device behind");

    const devicesOfAlice = async () =>
        [...(await bob.getCrypto().getUserDeviceInfo([alice.getUserId()], true)).get(alice.getUserId()).values()];
    await until("that Bob sees it", async () => (await devicesOfAlice()).some((device) => device.dehydrated));
    await alice.logout(true);
    await until("that Bob sees Alice go", async () => (await devicesOfAlice()).length === 1);
    await bob.sendTextMessage(roomId, "one");
    await bob.sendTextMessage(roomId, "two");
    say("Bob spoke while Alice was logged in nowhere");

    const device = await logIn(aliceUrl, "alice", alice.secret());
    await until("own keys", () => device.getCrypto().userHasCrossSigningKeys(alice.getUserId(), true));
    await device.getCrypto().bootstrapCrossSigning(withPassword("alice"));
    await device.getCrypto().startDehydration({ rehydrate: true });
    await untilHeard([device], roomId, ["one", "two"]);
    say("the next device reads it");
    await until("that Bob sees the new ones", async () => {
        const devices = await devicesOfAlice();
        return devices.length === 2 && devices.some((one) => one.dehydrated);
    });
    say("ALL OK");
    for (const client of [bob, device]) client.stopClient();
}

run(main);
