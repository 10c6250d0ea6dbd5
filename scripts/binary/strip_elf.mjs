// Removes from an ELF file what is never loaded: symbol tables and debugging sections, a fifth of Node's size. What
// `strip` does, for machines without binutils and for files of other processors. It must come before an executable gets
// its assets: those are found by their place in the file.

const HEADER = 64;
const SECTION = 64; // bytes of one entry of the section table
const ALLOCATED = 2n; // SHF_ALLOC

/** Tells whether these bytes are a 64-bit little-endian ELF file. */
export const isElf = (bytes) =>
  bytes.length > HEADER && bytes.readUInt32BE(0) === 0x7f454c46 && bytes[4] === 2 && bytes[5] === 1;

/**
 * The same program without its unloaded sections; the file is returned as it is where those do not lie behind all that
 * is loaded (no linker does that).
 * @param {Buffer} bytes
 * @returns {Buffer}
 */
export function stripElf(bytes) {
  if (!isElf(bytes)) throw new Error('not a 64-bit ELF file');
  const table = Number(bytes.readBigUInt64LE(40));
  const count = bytes.readUInt16LE(60);
  const names = bytes.readUInt16LE(62);
  const sections = Array.from({ length: count }, (_, i) =>
    bytes.subarray(table + i * SECTION, table + (i + 1) * SECTION),
  );
  const loaded = sections.map((section, i) => i === 0 || (section.readBigUInt64LE(8) & ALLOCATED) !== 0n);
  const kept = loaded.lastIndexOf(true) + 1;
  const end = endOfSegments(bytes);
  if (loaded.indexOf(false) < kept && loaded.includes(false)) return bytes;
  if (names < kept || offsetOf(sections[names]) < end || table < end) return bytes;

  const nameBytes = bytes.subarray(offsetOf(sections[names]), offsetOf(sections[names]) + sizeOf(sections[names]));
  const padding = Buffer.alloc((8 - ((end + nameBytes.length) % 8)) % 8);
  const nameSection = Buffer.from(sections[names]);
  nameSection.writeBigUInt64LE(BigInt(end), 24);
  const header = Buffer.from(bytes.subarray(0, HEADER));
  header.writeBigUInt64LE(BigInt(end + nameBytes.length + padding.length), 40);
  header.writeUInt16LE(kept + 1, 60);
  header.writeUInt16LE(kept, 62);
  return Buffer.concat([
    header,
    bytes.subarray(HEADER, end),
    nameBytes,
    padding,
    ...sections.slice(0, kept),
    nameSection,
  ]);
}

const offsetOf = (section) => Number(section.readBigUInt64LE(24));
const sizeOf = (section) => Number(section.readBigUInt64LE(32));

/** First byte behind everything that the program headers load. */
function endOfSegments(bytes) {
  const first = Number(bytes.readBigUInt64LE(32));
  const size = bytes.readUInt16LE(54);
  const count = bytes.readUInt16LE(56);
  let end = first + size * count;
  for (let i = 0; i < count; i++) {
    const segment = first + i * size;
    end = Math.max(end, Number(bytes.readBigUInt64LE(segment + 8) + bytes.readBigUInt64LE(segment + 32)));
  }
  return end;
}
