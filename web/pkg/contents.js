// What a file's own bytes say of it: how long it is, whether it is something else, by what it can be told from another.

const isWeights = (file) => file.endsWith('.safetensors');
const isJson = (file) => file.endsWith('.json');
/** Bytes of weights, behind their header, that stand for all of them where a server names no version. */
const SAMPLE = 256 << 10;
/** A longer header is no header. */
const LONGEST = 100_000_000;

/** A file as it comes. Of weights it keeps the beginning, of the small files all. */
export class Contents {
  #file;
  /** @type {Uint8Array[]} */
  #chunks = [];
  #kept = 0;
  /** Where the data begins: 0 while that is not known, NaN if these are no weights. */
  #data = 0;
  /** Bytes that a file of weights has by its own header; null if it does not say. */
  need = /** @type {number | null} */ (null);

  constructor(file) {
    this.#file = file;
  }

  /** Adds what comes next. */
  feed(chunk) {
    if (!this.wants()) return;
    this.#chunks.push(chunk);
    this.#kept += chunk.length;
    if (!isWeights(this.#file)) return;
    if (!this.#data && this.#kept > 8) {
      const start = this.bytes();
      const length = Number(new DataView(start.buffer, start.byteOffset).getBigUint64(0, true));
      this.#data = length < LONGEST && start[8] === 0x7b ? 8 + length : NaN;
    }
    if (this.need === null && this.#kept >= this.#data) this.#readHeader();
  }

  /** Whether what comes next says anything more. */
  wants() {
    return !isWeights(this.#file) || !this.#data || this.#kept < this.#data + SAMPLE;
  }

  #readHeader() {
    try {
      const header = JSON.parse(new TextDecoder().decode(this.bytes().subarray(8, this.#data)));
      delete header.__metadata__;
      const ends = Object.values(header).map(({ data_offsets: [, end] }) => end);
      this.need = this.#data + ends.reduce((most, end) => Math.max(most, end), 0);
      if (!Number.isSafeInteger(this.need)) throw new RangeError();
    } catch {
      [this.need, this.#data] = [null, NaN];
    }
  }

  /** What has been kept. */
  bytes() {
    if (this.#chunks.length !== 1) {
      const whole = new Uint8Array(this.#kept);
      let at = 0;
      for (const chunk of this.#chunks) {
        whole.set(chunk, at);
        at += chunk.length;
      }
      this.#chunks = [whole];
    }
    return this.#chunks[0];
  }

  /** Whether so many bytes are all, by what the file itself says; null where it says nothing. */
  whole(received) {
    if (isWeights(this.#file)) return this.need === null ? null : received >= this.need;
    if (!isJson(this.#file)) return null;
    try {
      JSON.parse(new TextDecoder().decode(this.bytes()));
      return true;
    } catch {
      return false;
    }
  }

  /** Whether it ends as such a file does: cheap, where the length is known. */
  endsWell() {
    return !isJson(this.#file) || /[}\]]\s*$/.test(new TextDecoder().decode(this.bytes().subarray(-64)));
  }

  /** What it is instead of such a file, in words; null if it may be one. */
  impostor(type) {
    const start = new TextDecoder().decode(this.bytes().subarray(0, 512)).replace(/^\uFEFF/, '').trimStart();
    if (/^<(!doctype|html|head|body|script|\?xml|!--)/i.test(start)) return 'a web page';
    const fits = isWeights(this.#file) ? this.#data > 0 : !isJson(this.#file) || /^[{[]/.test(start);
    if (fits || !start) return null;
    if (/^text\/html/i.test(type ?? '')) return 'a web page';
    // A pointer of git-lfs and other things are named by who opens the file.
    return isJson(this.#file) && !start.startsWith('version ') ? `something else (${JSON.stringify(start.slice(0, 60))})` : null;
  }

  /** A number that another file hardly has: of all bytes, of weights those of the header and the first behind it. */
  print() {
    const bytes = this.bytes().subarray(0, isWeights(this.#file) ? (this.#data || 9) + SAMPLE : undefined);
    // cyrb53
    let [a, b] = [0xdeadbeef, 0x41c6ce57];
    for (const byte of bytes) {
      a = Math.imul(a ^ byte, 2654435761);
      b = Math.imul(b ^ byte, 1597334677);
    }
    a = Math.imul(a ^ (a >>> 16), 2246822507) ^ Math.imul(b ^ (b >>> 13), 3266489909);
    b = Math.imul(b ^ (b >>> 16), 2246822507) ^ Math.imul(a ^ (a >>> 13), 3266489909);
    return 4294967296 * (2097151 & b) + (a >>> 0);
  }
}
