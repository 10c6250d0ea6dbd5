declare module '*.iife.min.js' {
  const text: string;
  export default text;
}
