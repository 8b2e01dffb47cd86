import java.net.InetSocketAddress;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import net.spy.memcached.CASResponse;
import net.spy.memcached.CASValue;
import net.spy.memcached.CachedData;
import net.spy.memcached.ConnectionFactoryBuilder;
import net.spy.memcached.MemcachedClient;
import net.spy.memcached.transcoders.Transcoder;

class Spymemcached implements Driver.Client {
    private final MemcachedClient library;
    private final Map<String, Long> uniques = new HashMap<>();

    /** Bytes as they are: no flags, nothing compressed. */
    static final class Raw implements Transcoder<Object> {
        @Override
        public boolean asyncDecode(CachedData data) {
            return false;
        }

        @Override
        public CachedData encode(Object value) {
            return new CachedData(0, (byte[]) value, getMaxSize());
        }

        @Override
        public Object decode(CachedData data) {
            return data.getData();
        }

        @Override
        public int getMaxSize() {
            return CachedData.MAX_SIZE;
        }
    }

    Spymemcached(String host, int port, boolean binary) throws Exception {
        ConnectionFactoryBuilder builder = builder()
            .setProtocol(binary ? ConnectionFactoryBuilder.Protocol.BINARY : ConnectionFactoryBuilder.Protocol.TEXT)
            .setOpTimeout(Driver.TIMEOUT_MILLISECONDS)
            .setMaxReconnectDelay(1)
            .setDaemon(true)
            .setTranscoder(new Raw());
        library = new MemcachedClient(builder.build(), List.of(new InetSocketAddress(host, port)));
    }

    ConnectionFactoryBuilder builder() {
        return new ConnectionFactoryBuilder();
    }

    private static <T> T done(Future<T> future) throws Exception {
        return future.get(Driver.TIMEOUT_MILLISECONDS, TimeUnit.MILLISECONDS);
    }

    private static Object value(CASValue<Object> found) {
        return found == null ? null : found.getValue();
    }

    private static Object count(long found) {
        return found == -1 ? null : (Object) found;
    }

    @Override
    public Object ask(Driver.Call call) throws Exception {
        switch (call.op) {
            case "set":
                return done(library.set(call.key(), call.number, call.value()));
            case "add":
                return done(library.add(call.key(), call.number, call.value()));
            case "replace":
                return done(library.replace(call.key(), call.number, call.value()));
            case "append":
                return done(library.append(call.key(), call.value()));
            case "prepend":
                return done(library.prepend(call.key(), call.value()));
            case "get":
                return library.get(call.key());
            case "gets": {
                CASValue<Object> found = library.gets(call.key());
                uniques.put(call.key(), found.getCas());
                return found.getValue();
            }
            case "cas":
                return library.cas(call.key(), uniques.get(call.key()), call.number, call.value()) == CASResponse.OK;
            case "incr":
                return count(library.incr(call.key(), call.number));
            case "decr":
                return count(library.decr(call.key(), call.number));
            case "touch":
                return done(library.touch(call.key(), call.number));
            case "gat":
                return value(library.getAndTouch(call.key(), call.number));
            case "delete":
                return done(library.delete(call.key()));
            case "multiget":
                return library.getBulk(call.keys());
            case "multiset": {
                // Nothing is waited for in between: in binary they become quiet ones with a noop behind them.
                List<Future<Boolean>> stored = new ArrayList<>();
                call.pairs().forEach((key, value) -> stored.add(library.set(key, 1000, value)));
                boolean all = true;
                for (Future<Boolean> one : stored) {
                    all &= done(one);
                }
                return all;
            }
            case "stats":
                return library.getStats().values().iterator().next();
            case "version":
                return library.getVersions().values().iterator().next();
            case "flush":
                return done(library.flush());
            default:
                throw new UnsupportedOperationException();
        }
    }
}
