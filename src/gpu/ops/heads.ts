import source from '../../../kernels/heads.wgsl';

/** An attention kernel's text with what reads its heads in front. */
export const withHeads = (text: string): string => `${source}\n${text}`;

/** The constants of heads.wgsl: texels a row of each tensor that is read as a texture, 0 for buffers. */
export const headWidths = (textures: Partial<Record<'QKV' | 'DO' | 'K' | 'V', number>>) =>
  ({ WIDTH_QKV: textures.QKV ?? 0, WIDTH_DO: textures.DO ?? 0, WIDTH_K: textures.K ?? 0, WIDTH_V: textures.V ?? 0 });
