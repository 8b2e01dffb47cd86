import java.util.Collection;
import java.util.HashMap;
import java.util.Map;
import net.rubyeye.xmemcached.GetsResponse;
import net.rubyeye.xmemcached.MemcachedClient;
import net.rubyeye.xmemcached.XMemcachedClientBuilder;
import net.rubyeye.xmemcached.command.BinaryCommandFactory;
import net.rubyeye.xmemcached.command.TextCommandFactory;
import net.rubyeye.xmemcached.transcoders.SerializingTranscoder;

final class Xmemcached implements Driver.Client {
    private final MemcachedClient library;
    private final Map<String, Long> uniques = new HashMap<>();

    Xmemcached(String host, int port, boolean binary) throws Exception {
        XMemcachedClientBuilder builder = new XMemcachedClientBuilder(host + ":" + port);
        builder.setCommandFactory(binary ? new BinaryCommandFactory() : new TextCommandFactory());
        builder.setOpTimeout(Driver.TIMEOUT_MILLISECONDS);
        builder.setConnectTimeout(Driver.TIMEOUT_MILLISECONDS);
        builder.setHealSessionInterval(1);
        SerializingTranscoder transcoder = new SerializingTranscoder();
        transcoder.setCompressionThreshold(Integer.MAX_VALUE);
        builder.setTranscoder(transcoder);
        library = builder.build();
    }

    @Override
    public Object ask(Driver.Call call) throws Exception {
        switch (call.op) {
            case "set":
                return library.set(call.key(), call.number, call.value());
            case "add":
                return library.add(call.key(), call.number, call.value());
            case "replace":
                return library.replace(call.key(), call.number, call.value());
            case "append":
                return library.append(call.key(), call.value());
            case "prepend":
                return library.prepend(call.key(), call.value());
            case "get":
                return library.get(call.key());
            case "gets": {
                GetsResponse<Object> found = library.gets(call.key());
                uniques.put(call.key(), found.getCas());
                return found.getValue();
            }
            case "cas":
                return library.cas(call.key(), call.number, call.value(), uniques.get(call.key()));
            case "incr":
                return library.incr(call.key(), call.number);
            case "decr":
                return library.decr(call.key(), call.number);
            case "touch":
                return library.touch(call.key(), call.number);
            case "gat":
                return library.getAndTouch(call.key(), call.number);
            case "delete":
                return library.delete(call.key());
            case "multiget": {
                Map<String, Object> found = library.get((Collection<String>) call.keys());
                return found == null ? Map.of() : found;
            }
            case "quiet_set":
                library.setWithNoReply(call.key(), call.number, call.value());
                return null;
            case "quiet_delete":
                library.deleteWithNoReply(call.key());
                return null;
            case "stats":
                return library.getStats().values().iterator().next();
            case "version":
                return library.getVersions().values().iterator().next();
            case "flush":
                library.flushAll();
                return true;
            default:
                throw new UnsupportedOperationException();
        }
    }
}
