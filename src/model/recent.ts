/** The values made for the last `limit` different keys: what has not been asked for longest is dropped. */
export class Recent<T> {
  private readonly made = new Map<string, T>();

  constructor(private readonly limit: number, private readonly drop: (value: T) => void = () => undefined) {}

  /** The value of a key, made now if it is not there. */
  get(key: string, make: () => T): T {
    const known = this.made.get(key);
    const value = known ?? make();
    this.made.delete(key); // the order of a Map is that of insertion: the longest unused come first
    this.made.set(key, value);
    if (this.made.size > this.limit) {
      const [oldest, dropped] = this.made.entries().next().value!;
      this.made.delete(oldest);
      this.drop(dropped);
    }
    return value;
  }

  get size(): number {
    return this.made.size;
  }
}
