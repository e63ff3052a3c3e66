/** An error with a `code` that a program can act on; index.d.ts lists them. */
export class MambaError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    this.name = 'MambaError';
    this.code = code;
  }
}
