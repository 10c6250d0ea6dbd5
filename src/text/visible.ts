/**
 * A text as it may be shown in a terminal: control characters other than line breaks and tabs, which could move the cursor, clear the screen or
 * forge what stands there, as the pictures that Unicode has of them (U+2400 and on), those of C1 as U+FFFD.
 */
export const visible = (text: string): string =>
  text.replace(/[\0-\x08\x0b-\x1f\x7f-\x9f]/g, (c) => (c < ' ' ? String.fromCharCode(0x2400 + c.charCodeAt(0)) : c === '\x7f' ? '\u2421' : '\ufffd'));
