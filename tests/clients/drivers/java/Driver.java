import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.logging.Level;
import java.util.logging.LogManager;
import java.util.logging.Logger;

/** The Java clients. What a driver is told and answers: `matrix.py`. */
public final class Driver {
    static final long TIMEOUT_MILLISECONDS = 30_000;

    /** One call: keys and values as they are, and the number behind them. */
    static final class Call {
        final String op;
        final List<byte[]> parts = new ArrayList<>();
        int number;

        Call(String line) {
            String[] fields = line.split("\t", -1);
            op = fields[0];
            int texts = switch (op) {
                case "incr", "decr", "touch", "gat" -> 1;
                case "set", "add", "replace", "cas", "quiet_set" -> 2;
                default -> Integer.MAX_VALUE;
            };
            for (int index = 1; index < fields.length; index++) {
                if (index <= texts) {
                    parts.add(Base64.getDecoder().decode(fields[index]));
                } else {
                    number = Integer.parseInt(fields[index]);
                }
            }
        }

        String key() {
            return key(0);
        }

        String key(int index) {
            return new String(parts.get(index), StandardCharsets.UTF_8);
        }

        byte[] value() {
            return parts.get(1);
        }

        List<String> keys() {
            List<String> keys = new ArrayList<>();
            for (int index = 0; index < parts.size(); index++) {
                keys.add(key(index));
            }
            return keys;
        }

        Map<String, byte[]> pairs() {
            Map<String, byte[]> pairs = new LinkedHashMap<>();
            for (int index = 0; index < parts.size(); index += 2) {
                pairs.put(key(index), parts.get(index + 1));
            }
            return pairs;
        }
    }

    /** What a client has no call for it refuses with an UnsupportedOperationException. */
    interface Client {
        Object ask(Call call) throws Exception;
    }

    static Client client(String name, String host, int port) throws Exception {
        String kind = name.startsWith("xmemcached") ? "Xmemcached" : name.startsWith("spy") ? "Spymemcached" : "Elasticache";
        return (Client) Class.forName(kind)
            .getDeclaredConstructor(String.class, int.class, boolean.class)
            .newInstance(host, port, name.endsWith(" binary"));
    }

    static String text(Object value) {
        byte[] bytes = value instanceof byte[] raw ? raw : value.toString().getBytes(StandardCharsets.UTF_8);
        return Base64.getEncoder().encodeToString(bytes);
    }

    static String answer(Object found) {
        if (found == null) {
            return "none";
        }
        if (found instanceof Boolean) {
            return found.toString();
        }
        if (found instanceof Long) {
            return "number\t" + found;
        }
        if (found instanceof Map<?, ?> map) {
            StringBuilder said = new StringBuilder("pairs");
            map.forEach((key, value) -> said.append('\t').append(text(key)).append('\t').append(text(value)));
            return said.toString();
        }
        return "value\t" + text(found);
    }

    public static void main(String[] arguments) throws Exception {
        LogManager.getLogManager().reset();
        Logger.getLogger("").setLevel(Level.OFF);
        System.setProperty("net.spy.log.LoggerImpl", "net.spy.memcached.compat.log.SunLogger");
        PrintStream output = System.out;
        System.setOut(System.err);
        Client client = client(arguments[0], arguments[1], Integer.parseInt(arguments[2]));
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            Call call = new Call(line);
            String said;
            try {
                Object found = client.ask(call);
                said = call.op.startsWith("quiet_") ? "done" : answer(found);
            } catch (UnsupportedOperationException error) {
                said = "unsupported";
            } catch (Exception error) {
                said = ("error\t" + error).replaceAll("[\r\n]+", " ");
                System.err.println(said);
            }
            output.print(said + "\n");
            output.flush();
        }
        System.exit(0);
    }
}
