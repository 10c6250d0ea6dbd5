/** What a tokenizer is read from. */
export const isTokenizerFile = (name: string): boolean =>
  /^(tokenizer|tokenizer_config|special_tokens_map|generation_config)\.json$|^chat_template\.jinja$/.test(name);

/** A model's or an adapter's weights, whole or a part of them. */
export const isWeightsFile = (name: string): boolean => /^(model|adapter_model)(-\d{5}-of-\d{5})?\.safetensors$/.test(name);

/** Of a folder that rlhf writes a model to, the model: config, weights and tokenizer. */
export const isModelFile = (name: string): boolean =>
  ['config.json', 'adapter_config.json', 'model.safetensors.index.json'].includes(name) || isWeightsFile(name) || isTokenizerFile(name);
