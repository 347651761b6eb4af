// The AWS SDK for JavaScript in its default settings (path style apart, which an address without DNS needs), told by
// test_s3_clients.py: node client.mjs URL BUCKET PREFIX. Ends with an assertion's text, or with "all right".
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { createRequire } from "node:module";
import { Readable } from "node:stream";
import path from "node:path";

const require = createRequire(path.join(process.env.S3O_TOOLS, "..", "js", "package.json"));
const s3 = require("@aws-sdk/client-s3");
const { Upload } = require("@aws-sdk/lib-storage");
const { getSignedUrl } = require("@aws-sdk/s3-request-presigner");

const [, , endpoint, Bucket, prefix] = process.argv;
const client = new s3.S3Client({ endpoint, region: "us-east-1", forcePathStyle: true });
const MIB = 1 << 20;

const send = (Command, input) => client.send(new Command({ Bucket, ...input }));
const bytesOf = async (answer) => Buffer.from(await answer.Body.transformToByteArray());
const md5 = (bytes) => createHash("md5").update(bytes).digest("hex");
const refused = (what, name, status) =>
  assert.rejects(what, (error) => {
    assert.equal(error.name, name);
    assert.equal(error.$metadata.httpStatusCode, status);
    return true;
  });

async function objects() {
  const body = randomBytes(70_000);
  const Key = `${prefix}/a b+c/é%2F.bin`;
  const put = await send(s3.PutObjectCommand, { Key, Body: body, ContentType: "text/x", Metadata: { name: "value" }, Tagging: "a=b" });
  assert.equal(put.ETag, `"${md5(body)}"`);
  assert.ok(put.ChecksumCRC32, "the SDK's default checksum");
  const got = await send(s3.GetObjectCommand, { Key });
  assert.deepEqual(await bytesOf(got), body);
  assert.deepEqual([got.ContentType, got.Metadata.name, got.TagCount, got.ChecksumCRC32], ["text/x", "value", 1, put.ChecksumCRC32]);
  const part = await send(s3.GetObjectCommand, { Key, Range: "bytes=5-9" });
  assert.deepEqual(await bytesOf(part), body.subarray(5, 10));
  const head = await send(s3.HeadObjectCommand, { Key });
  assert.deepEqual([head.ContentLength, head.ETag], [body.length, put.ETag]);
  await refused(send(s3.HeadObjectCommand, { Key: `${prefix}/none` }), "NotFound", 404);
  await refused(send(s3.GetObjectCommand, { Key: `${prefix}/none` }), "NoSuchKey", 404);
  await refused(send(s3.PutObjectCommand, { Key, Body: "x", IfNoneMatch: "*" }), "PreconditionFailed", 412);
  const unchanged = send(s3.GetObjectCommand, { Key, IfNoneMatch: put.ETag });
  await assert.rejects(unchanged, (error) => error.$metadata.httpStatusCode === 304);
  for (const ChecksumAlgorithm of ["CRC32", "CRC32C", "SHA1", "SHA256"]) {
    const field = `Checksum${ChecksumAlgorithm}`;
    const one = await send(s3.PutObjectCommand, { Key: `${prefix}/sum/${ChecksumAlgorithm}`, Body: body, ChecksumAlgorithm });
    const back = await send(s3.GetObjectCommand, { Key: `${prefix}/sum/${ChecksumAlgorithm}`, ChecksumMode: "ENABLED" });
    assert.deepEqual(await bytesOf(back), body);
    assert.ok(one[field] && one[field] === back[field], field);
  }
  await send(s3.PutObjectCommand, { Key: `${prefix}/empty`, Body: "" });
  assert.equal((await bytesOf(await send(s3.GetObjectCommand, { Key: `${prefix}/empty` }))).length, 0);
}

// A stream of known length goes out in chunks with a checksum behind them.
async function streams() {
  const Key = `${prefix}/streamed`;
  const body = randomBytes(3 * MIB + 17);
  const pieces = [body.subarray(0, 10), body.subarray(10, MIB), body.subarray(MIB)];
  await send(s3.PutObjectCommand, { Key, Body: Readable.from(pieces), ContentLength: body.length });
  const got = await send(s3.GetObjectCommand, { Key });
  assert.equal(got.ContentEncoding, undefined, "aws-chunked is of the wire, not of the object");
  assert.deepEqual(await bytesOf(got), body);
}

async function uploads() {
  const Key = `${prefix}/in parts`;
  const body = randomBytes(12 * MIB + 3);
  const pieces = Array.from({ length: 13 }, (_, i) => body.subarray(i * MIB, (i + 1) * MIB));
  const done = await new Upload({ client, params: { Bucket, Key, Body: Readable.from(pieces) }, partSize: 5 * MIB }).done();
  assert.match(done.ETag, /^"[0-9a-f]{32}-3"$/);
  assert.deepEqual(await bytesOf(await send(s3.GetObjectCommand, { Key })), body);

  const { UploadId } = await send(s3.CreateMultipartUploadCommand, { Key });
  const first = await send(s3.UploadPartCommand, { Key, UploadId, PartNumber: 1, Body: body.subarray(0, 5 * MIB) });
  const copied = await send(s3.UploadPartCopyCommand, {
    Key, UploadId, PartNumber: 2, CopySource: `${Bucket}/${encodeURIComponent(Key)}`, CopySourceRange: `bytes=${5 * MIB}-${body.length - 1}`,
  });
  const listed = await send(s3.ListPartsCommand, { Key, UploadId });
  assert.deepEqual(listed.Parts.map((part) => part.PartNumber), [1, 2]);
  const Parts = [{ PartNumber: 1, ETag: first.ETag }, { PartNumber: 2, ETag: copied.CopyPartResult.ETag }];
  await send(s3.CompleteMultipartUploadCommand, { Key, UploadId, MultipartUpload: { Parts } });
  assert.deepEqual(await bytesOf(await send(s3.GetObjectCommand, { Key })), body);
  await refused(send(s3.AbortMultipartUploadCommand, { Key, UploadId: "none" }), "NoSuchUpload", 404);
}

async function listings() {
  const keys = ["l/1", "l/2", "l/d/3", "l/d/4", "l/é &<"].map((key) => `${prefix}/${key}`);
  await Promise.all(keys.map((Key) => send(s3.PutObjectCommand, { Key, Body: Key })));
  const found = [];
  for await (const page of s3.paginateListObjectsV2({ client, pageSize: 2 }, { Bucket, Prefix: `${prefix}/l/` })) {
    found.push(...page.Contents.map((one) => one.Key));
  }
  assert.deepEqual(found, keys);
  const page = await send(s3.ListObjectsV2Command, { Prefix: `${prefix}/l/`, Delimiter: "/" });
  assert.deepEqual([page.KeyCount, page.CommonPrefixes.map((one) => one.Prefix)], [4, [`${prefix}/l/d/`]]);
  const old = await send(s3.ListObjectsCommand, { Prefix: `${prefix}/l/`, MaxKeys: 1 });
  assert.deepEqual([old.IsTruncated, old.Contents[0].Key], [true, keys[0]]);
  assert.ok((await client.send(new s3.ListBucketsCommand({}))).Buckets.some((one) => one.Name === Bucket));
  await s3.waitUntilBucketExists({ client, maxWaitTime: 20 }, { Bucket });

  const CopySource = `${Bucket}/${encodeURIComponent(keys[4])}`;
  await send(s3.CopyObjectCommand, { Key: `${prefix}/copy`, CopySource });
  assert.equal((await bytesOf(await send(s3.GetObjectCommand, { Key: `${prefix}/copy` }))).toString(), keys[4]);
  await send(s3.PutObjectTaggingCommand, { Key: keys[0], Tagging: { TagSet: [{ Key: "k", Value: "v" }] } });
  assert.deepEqual((await send(s3.GetObjectTaggingCommand, { Key: keys[0] })).TagSet, [{ Key: "k", Value: "v" }]);
  const deleted = await send(s3.DeleteObjectsCommand, { Delete: { Objects: keys.map((Key) => ({ Key })) } });
  assert.deepEqual([deleted.Deleted.length, deleted.Errors], [5, undefined]);
  await s3.waitUntilObjectNotExists({ client, maxWaitTime: 20 }, { Bucket, Key: keys[0] });
}

async function presigned() {
  const Key = `${prefix}/by link/é`;
  const link = (Command, input) => getSignedUrl(client, new Command({ Bucket, Key, ...input }), { expiresIn: 60 });
  const put = await fetch(await link(s3.PutObjectCommand, {}), { method: "PUT", body: "by link" });
  assert.equal(put.status, 200, await put.text());
  const got = await fetch(await link(s3.GetObjectCommand, { ResponseContentType: "text/other" }));
  assert.deepEqual([got.status, got.headers.get("content-type"), await got.text()], [200, "text/other", "by link"]);
  const url = await link(s3.GetObjectCommand, {});
  assert.equal((await fetch(url.replace("by%20link", "by%20lunk"))).status, 403);
  assert.equal((await fetch(await link(s3.DeleteObjectCommand, {}), { method: "DELETE" })).status, 204);
}

await Promise.all([objects(), streams(), uploads(), listings(), presigned()]);
console.log("all right");
